"""Agreement with other frameworks, each run beside flaxrnn on the same weights and inputs."""
