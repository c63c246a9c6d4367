"""Speaks the clients' protocols and follows jobs. Stateless; knows no model."""
