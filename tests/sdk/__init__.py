"""The official Trigger.dev SDK, as npm has it, against a real server."""
