"""What an operator is told: the page at `/admin` and the routes under `/v1/admin` that it shows."""
