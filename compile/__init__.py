"""The bridge: a network of integer parameters becomes one composed Concrete module."""
