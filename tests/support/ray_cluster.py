"""A Ray cluster of a head and two nodes here with a GPU each that is not there, the first with a resource `first`.

It says its address.

For each line it kills the older node, and replaces it unless the line says `lose`.

In a process of its own: Ray leaves sockets open in one that has used it.
"""

import sys

if __name__ == "__main__":
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1, num_gpus=1, resources=own) for own in ({"first": 1}, {})]
    cluster.wait_for_nodes()
    sys.stdout.write(f"{cluster.address}\n")
    sys.stdout.flush()
    for line in sys.stdin:
        cluster.remove_node(nodes.pop(0), allow_graceful=False)
        nodes += [] if line.strip() == "lose" else [cluster.add_node(num_cpus=1)]
        sys.stdout.write("killed\n")
        sys.stdout.flush()
    cluster.shutdown()
