"""The local stack, swarm servers, images and catalogues. No logic that a service needs."""
