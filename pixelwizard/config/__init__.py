"""Every setting: one typed definition, the schema of the config files and the runtime values."""
