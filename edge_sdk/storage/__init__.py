"""What a device keeps on its disk between two starts: journal and blobs."""

__all__: list[str] = []
