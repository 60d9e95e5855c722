"""Load on a running server: locust users that stream chats, and the verdict on the service targets."""
