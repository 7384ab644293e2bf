"""Small adapters to start from."""
