"""The commands of the command line, one module each; `cli` loads a module when its command runs."""
