"""HTTP routes, their models, the OpenAPI document, and streaming."""
