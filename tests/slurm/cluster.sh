#!/usr/bin/env bash
# A real SLURM on this one host, for tests: the controller, two nodes and munge, all of whose files are in one folder.
#   cluster.sh install|start|stop        cluster.sh run COMMAND...  (install, start, COMMAND, stop)
set -euo pipefail

state=${CHEMSCALE_SLURM_DIR:-/tmp/chemscale-slurm}
config=/etc/slurm/slurm.conf
nodes=(cpu1 cpu2)

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo -n "$@"; else
        echo "cluster.sh: this takes root or sudo: $*" >&2
        exit 2
    fi
}

install() {
    command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v munged >/dev/null && return
    command -v apt-get >/dev/null || {
        echo "cluster.sh: no apt-get here; install SLURM and munge by hand" >&2
        exit 2
    }
    as_root apt-get update -qq </dev/null
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends slurm-wlm munge </dev/null >/dev/null
}

write_config() {
    # the plugin's job steps strip SLURM_CONF, so the configuration has to be where SLURM looks by itself
    if [ -e "$config" ] && [ "$(readlink -f "$config")" != "$state/slurm.conf" ]; then
        echo "cluster.sh: $config belongs to a cluster of this host; it is left alone" >&2
        exit 2
    fi
    mkdir -p "$state"/{munge,spool,control}
    chmod 755 "$state"
    chmod 700 "$state/munge"
    [ -s "$state/munge/munge.key" ] || head -c 1024 /dev/urandom >"$state/munge/munge.key"
    chmod 400 "$state/munge/munge.key"
    chmod 711 "$state/munge"
    {
        cat <<END
ClusterName=chemscale
SlurmctldHost=localhost
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$state/munge/munge.socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/filetxt
JobCompLoc=$state/jobs.log
MinJobAge=3600
MaxArraySize=1001
SlurmdTimeout=30
KillWait=10
JobRequeue=1
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=5
StateSaveLocation=$state/control
SlurmctldPidFile=$state/slurmctld.pid
SlurmctldLogFile=$state/slurmctld.log
SlurmctldPort=16817
SlurmdPidFile=$state/slurmd-%n.pid
SlurmdLogFile=$state/slurmd-%n.log
SlurmdSpoolDir=$state/spool/%n
NodeName=DEFAULT Sockets=1 CoresPerSocket=2 ThreadsPerCore=1 RealMemory=4000
END
        local port=16818
        for node in "${nodes[@]}"; do
            echo "NodeName=$node NodeHostname=localhost NodeAddr=127.0.0.1 Port=$port"
            mkdir -p "$state/spool/$node"
            port=$((port + 1))
        done
        echo "PartitionName=cpu Nodes=$(IFS=,; echo "${nodes[*]}") Default=YES MaxTime=INFINITE State=UP"
    } >"$state/slurm.conf"
    mkdir -p "$(dirname "$config")"
    ln -sfn "$state/slurm.conf" "$config"
}

start() {
    if [ "$(id -u)" != 0 ]; then as_root env CHEMSCALE_SLURM_DIR="$state" "$0" start; return; fi
    stop
    write_config
    munged --force --key-file="$state/munge/munge.key" --socket="$state/munge/munge.socket" \
        --pid-file="$state/munge/munged.pid" --log-file="$state/munge/munged.log" --seed-file="$state/munge/munged.seed"
    slurmctld -c -f "$state/slurm.conf"
    for node in "${nodes[@]}"; do slurmd -c -N "$node" -f "$state/slurm.conf"; done
    for _ in $(seq 60); do
        if [ "$(sinfo -h -t idle -o %D 2>/dev/null)" = "${#nodes[@]}" ]; then
            sinfo
            return
        fi
        sleep 0.5
    done
    echo "cluster.sh: no node is idle after 30 seconds; the logs are in $state" >&2
    exit 1
}

stop() {
    if [ "$(id -u)" != 0 ]; then as_root env CHEMSCALE_SLURM_DIR="$state" "$0" stop; return; fi
    local file pid
    for file in "$state"/slurmd-*.pid "$state/slurmctld.pid" "$state/munge/munged.pid"; do
        [ -s "$file" ] || continue
        pid=$(cat "$file")
        # a number left from before a restart of the host may be another program's now
        case "$(cat "/proc/$pid/comm" 2>/dev/null)" in slurmd | slurmctld | munged) ;; *) continue ;; esac
        kill "$pid"
        for _ in $(seq 40); do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.25
        done
    done
    if [ "$(readlink "$config" 2>/dev/null)" = "$state/slurm.conf" ]; then rm "$config"; fi
}

case "${1:-}" in
install | start | stop) "$1" ;;
run)
    shift
    install
    trap stop EXIT
    start
    "$@"
    ;;
*)
    sed -n 2,3p "$0" >&2
    exit 2
    ;;
esac
