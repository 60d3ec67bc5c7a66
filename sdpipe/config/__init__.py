"""The YAML file: its sections, how it is read, and the problem that it builds."""
