#!/usr/bin/env bash
# What mpirun takes for ssh: run a command on one of the hosts that network.py made.
#   agent.sh [-x] ADDRESS COMMAND, quoted for a shell as ssh hands it on; HOSTS_PREFIX is the namespaces' name
set -euo pipefail
while [[ $1 == -* ]]; do shift; done
number=${1##*.}
shift
# A host name of its own too: it is what the ranks call themselves.
exec ip netns exec "$HOSTS_PREFIX$number" unshare --uts bash -c "hostname host$number; exec $*"
