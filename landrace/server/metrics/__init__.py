"""What an operator watches: numbers for Prometheus, by standard names."""
