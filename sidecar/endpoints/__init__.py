"""Where outbound traffic can go: endpoints, the clusters that hold them and the balancers that choose among them."""
