"""Authentication and authorization: signed requests and responses, replay protection, access rules."""
