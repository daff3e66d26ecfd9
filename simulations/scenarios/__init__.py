"""What happens in a simulation, as data: scenarios that people write, scripts that are run, shrunk and kept."""
