"""What is evaluated, and where it comes from."""
