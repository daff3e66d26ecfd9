"""The HTTP gateway: OpenAI shapes over the node, on loopback unless there is a key."""
