#!/bin/sh
# A client for POSIX shells with curl: sh client.sh <URL>
# It finds the statuses in the response to a batch with awk, so handlers must not return an object with a numeric "status".
url=$1 cr=$(printf '\r') dir=$(mktemp -d)
cd "$dir" || exit 1
trap 'kill $sender $watcher $stream 2> /dev/null; rm -r "$dir"' EXIT
mkfifo chunks events
echo 1000 > retry
: > outbox; : > body

# curl reads headers from files, so that the session id does not appear in the list of processes.
on_event() {
  case $1 in
    echo) send echo "$2" ;;
    gap) send missed "$2" ;;
    leave) echo "X-Session-ID: $id" > delete; curl -s -m 15 -X DELETE -H @delete "$url/downward" ;;
  esac
}

# Each line of the outbox is a message. Lines are only appended.
send() { key=$((key + 1)); printf '%s\n' "{\"event\":\"$1\",\"data\":$2,\"id\":\"$prefix$key\"}" >> outbox; }

# Waits `retry`, a random time with a growing limit, and at least Retry-After: wait_for <failures> <file with headers>
wait_for() {
  read -r retry < retry
  limit=$((retry << ($1 > 10 ? 10 : $1)))
  delay=$((retry + $(od -An -N2 -tu2 /dev/urandom) * (limit > 10000 ? 10000 : limit) / 65536))
  after=$(sed -n 's/^retry-after: *\([^\r]*\).*/\1/Ip' "$2")
  # Only GNU date can read a date.
  case $after in *GMT) after=$(($(date -d "$after" +%s) - $(date -d "$(sed -n 's/^date: *//Ip' "$2" | tr -d '\r')" +%s))) ;; esac
  [ "${after:-0}000" -gt "$delay" ] && delay=${after}000
  sleep "$((delay / 1000)).$(printf %03d $((delay % 1000)))"
}

deliver() {
  done=0 unsure=0 batch=100 failures=0 session='' key=0 prefix=s
  while :; do
    # `unsure` is the number of messages after `done` that were sent, but have no response.
    if [ ! -e connected ] || [ "$(wc -l < outbox)" -le $done ]; then sleep 0.05; continue; fi
    read -r header < session
    # A repeat in a new session could be handled twice.
    [ -n "$session" ] && [ "$session" != "$header" ] && done=$((done + unsure)) unsure=0
    session=$header before=$unsure
    tail -n +$((done + 1)) outbox | head -n $batch > batch
    count=$(wc -l < batch)
    [ "$count" -eq 0 ] && continue
    [ "$count" -gt $unsure ] && unsure=$count
    : > post
    status=$(curl -s -m 15 -D post -o body -w '%{http_code}' -H @session -H 'Content-Type: application/x-ndjson' --data-binary @batch "$url/upward") || status=0
    results=''
    case $status in
      200) grep -q '^\[' body && results=$(tr '{' '\n' < body | awk '/^"status":[0-9][0-9][0-9]/ { if (s) print s; s = substr($0, 10, 3) } /"replayed":true}/ { s = s "r" } END { if (s) print s }'); [ "$(echo "$results" | wc -l)" -eq "$count" ] || results='' ;;
      408 | 421 | 425 | 429) ;;
      400 | 413) if [ "$count" -gt 1 ]; then batch=$((count / 2)) unsure=$before; continue; fi; results=$status ;;
      4*) results=$(sed "s/.*/$status/" batch) ;;
    esac
    # A 503 without a code of this server can come from a proxy.
    if [ -n "$results" ] || { [ "$status" = 503 ] && grep -q '"code":"FST_SSE_' body; } || [ "$status" = 429 ]; then unsure=$before; fi # the others were not handled
    handled=0
    for result in $results; do
      case $result in
        404) if grep -q FST_SSE_SESSION_UNKNOWN body; then rm -f connected; [ -e stream ] && kill "$(cat stream)"; break; fi; send refused '{"status":404}' ;;
        429 | 503) break ;;
        [45]*) send refused "{\"status\":${result%r}}" ;; # 503r is a stored response
      esac
      handled=$((handled + 1))
    done
    done=$((done + handled)) unsure=$((unsure > handled ? unsure - handled : 0))
    if [ $handled -gt 0 ]; then batch=100 failures=0; else failures=$((failures + 1)); wait_for $failures post; fi
  done
}

stop() { echo "The stream has ended: $1" >&2; exit "$2"; }

# Handles one line of the stream. An event ends with a blank line.
handle() {
  value=${1#*:} value=${value# }
  case $1 in
    retry:*) echo "$value" > retry ;;
    event:*) name=$value ;;
    data:*) data=$data$value ;;
    id:*) event_id=$value ;;
    '')
      case $name in
        close) exit 0 ;;
        replaced) stop replaced 1 ;;
        welcome)
          new=$(echo "$data" | sed 's/.*"sessionId":"\([^"]*\)".*/\1/') previous=$id id=$new
          interval=$(echo "$data" | sed -n 's/.*"heartbeatInterval":\([0-9]*\).*/\1/p')
          echo $((interval ? (interval * 5 / 2 + 999) / 1000 : 1000000)) > silence
          echo "X-Session-ID: $id" > new && mv new session
          [ -n "$previous" ] && [ "$previous" != "$id" ] && send lost null
          failures=0
          : > connected ;;
        *) [ -n "$data" ] && on_event "${name:-message}" "$data" ;;
      esac
      cursor=${event_id:-$cursor} name='' data='' event_id='' ;;
  esac
}

# Ends a stream after `silence` seconds without a chunk. curl cannot change its own time limit after the welcome.
watch() {
  while sleep 1; do
    echo >> idle
    read -r silence < silence
    [ "$(wc -l < idle)" -gt "${silence:-38}" ] && [ -e stream ] && kill "$(cat stream)"
  done
}

deliver & sender=$!
watch 2> /dev/null & watcher=$!
failures=0 id='' cursor='' key=0 prefix=''
while :; do
  echo 'Accept: text/event-stream' > get
  [ -n "$cursor" ] && echo "Last-Event-ID: $cursor" >> get
  : > head; : > idle; echo 38 > silence
  curl -sN -D head -H @get "$url/downward" > chunks & stream=$!
  echo $stream > stream
  while dd bs=65536 count=1 > chunk && [ -s chunk ]; do : > idle; cat chunk; done < chunks > events 2> /dev/null &
  name='' data='' event_id='' is_stream=''
  while IFS= read -r line; do
    [ -n "$is_stream" ] || grep -qi '^content-type: text/event-stream' head || continue
    is_stream=1
    # A line can also end with CR or CRLF.
    IFS=$cr; set -f; set -- ${line:-""}; unset IFS; set +f
    [ -z "$line" ] && set -- ''
    for part; do handle "$part"; done
  done < events
  rm -f connected
  wait $stream
  rm -f stream
  status=$(sed -n 's/^HTTP[^ ]* \([0-9]*\).*/\1/p' head | tail -n 1)
  case $status in 408 | 421 | 425 | 429) ;; 204 | 4*) stop "status $status" 1 ;; esac
  wait_for $failures head
  failures=$((failures + 1))
done
