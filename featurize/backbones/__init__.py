"""The frozen networks: what a backbone is, one file a family, the Hub, weight files."""
