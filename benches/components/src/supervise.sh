# Runs a server for a test process and outlives that process just long enough to clean up.
#
#   sh -c "$script" supervise DIRECTORY PROGRAM ARGUMENT...
#
# Standard input is a pipe whose other end only the test process holds. A line on it names a
# signal for the server. Its end means that the test process is gone, however it ended: the
# server is killed and its directory removed.
directory=$1
shift
exec 3<&0
"$@" </dev/null 3<&- &
server=$!
{
    while read -r signal; do
        kill -s "$signal" "$server"
    done
    trap '' TERM
    kill -s KILL "$server"
    # The server may still be creating files while it dies.
    rm -rf -- "$directory" || { sleep 1; rm -rf -- "$directory"; }
} <&3 3<&- 2>/dev/null &
watcher=$!
exec 3<&- </dev/null
wait "$server"
status=$?
kill -s TERM "$watcher"
exit "$status"
