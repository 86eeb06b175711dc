"""The document at `/openapi.json`, made of what each route says of itself."""
