"""The presets of every stage, one YAML file each."""
