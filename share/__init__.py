"""Artifacts, runs and networks to and from repositories of the Hugging Face Hub."""
