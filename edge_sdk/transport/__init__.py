"""The way to the broker: MQTT, or memory."""
