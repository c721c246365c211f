"""What goes over the wire: requests and answers of both APIs as dataclasses."""
