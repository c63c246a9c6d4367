"""What gateway and worker would break over if they disagreed: messages, keys, scripts, catalogue, bounds."""
