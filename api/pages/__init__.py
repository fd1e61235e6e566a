"""The dashboard: pages for people, served beside the API by the same process."""
