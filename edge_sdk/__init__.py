"""Federated training of one sparse model on small boards: the device SDK."""
