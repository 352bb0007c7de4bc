"""The tests: laws of the plugin, of the workloads, and of the launcher."""
