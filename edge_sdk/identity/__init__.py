"""Who a device is and whom it believes: keys, tokens, certificates, signatures."""
