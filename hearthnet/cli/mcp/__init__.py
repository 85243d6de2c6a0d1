"""`hearthnet mcp`: lets an assistant look things up in the records, by the Model Context Protocol, read only."""
