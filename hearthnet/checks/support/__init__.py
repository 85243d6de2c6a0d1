"""What a person does with findings: repairs, and a bundle that is safe to share."""
