"""The routes, their responses, and the OpenAPI document."""
