"""The daemon and its faces: composition, configuration, control socket, command line, HTTP."""
