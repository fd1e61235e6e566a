"""The log of what jobs report about themselves, and the handles that jobs and servers hold on it."""
