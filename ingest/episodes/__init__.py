"""Episodes of robots: parts of files that hold many, with columns of their own."""
