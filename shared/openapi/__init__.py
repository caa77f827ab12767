"""What our HTTP APIs are, told where their routes are, and written as one OpenAPI document."""
