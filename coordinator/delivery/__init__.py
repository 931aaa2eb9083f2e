"""Models on their way to boards: what is to be delivered, sending it, what runs."""
