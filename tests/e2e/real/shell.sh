#!/bin/bash
# Pipelines, background jobs with statuses, traps, command and process substitution, a coprocess, here-documents.
# It writes no files: what it computes comes out on standard output, the same each time.
set -m
hits=0
trap 'hits=$((hits + 1))' USR1
trap 'echo "exit trap after $hits signals"' EXIT

work() {
    local sum=0 i
    for ((i = 0; i < $1; i++)); do
        sum=$(((sum * 31 + i) % 1000003))
    done
    echo "$sum"
}

exec 6<> <(:) # a pipe
coproc DOUBLER { while read -r n; do echo $((n * 2)); done; }

for ((round = 1; round <= ${1:-40}; round++)); do
    seq 1 100 | while read -r n; do echo $((n * round)); done | sort -rn | head -3 | tr '\n' ' '
    echo
    (sleep 0.01; exit $((round % 7))) &
    sleeper=$!
    exec 5< <(work 1500)
    kill -USR1 $$
    wait -f "$sleeper"
    echo "round $round: background job ended with $?"
    read -r sum <&5
    exec 5<&-
    echo "sum $sum, $(work 300) in a substitution"
    echo "$round" >&"${DOUBLER[1]}"
    read -r twice <&"${DOUBLER[0]}"
    echo "doubled: $twice"
    # the job says when it is no shell any more: one that is killed before would run the exit trap
    (trap - EXIT; exec sh -c 'echo up; exec sleep 5') >&6 &
    job=$!
    read -r up <&6
    kill -STOP "$job"
    wait "$job"
    stopped=$?
    # It is bg that notes the job as running. With kill -CONT, that is up to SIGCHLD, and bash can miss one: then
    # it waits for a stopped job that is long gone.
    bg %% >/dev/null
    kill -TERM "$job"
    wait -f "$job"
    echo "$up, stopped: $stopped, killed: $?"
    tr a-z A-Z <<END
here-document of round $round
END
done 2>/dev/null
eval "exec ${DOUBLER[1]}>&-"
wait
echo "end"
