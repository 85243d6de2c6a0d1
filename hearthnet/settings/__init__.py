"""config.toml as a person sees it: each setting's value and where it is from, and changes that keep the comments."""
