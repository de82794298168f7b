"""A client with the standard library. Run `python3 client.py <URL>`, or import `Session`."""
import http.client, io, json, os, random, socket, sys, threading, time
from email.utils import formatdate, parsedate_to_datetime
from urllib.parse import urlsplit

# What http.client raises if there is no complete response.
FAILURES = (OSError, http.client.HTTPException)

def is_refusal(status): return status == 204 or 400 <= status < 500 and status not in (408, 421, 425, 429)

class Session:
    def __init__(self, url, on_event, path=None):
        """Calls `on_event(name, data)` for events, and also with `lost` (the session was lost, and there is a new one) and `refused` (the server has refused a message).
        `path` is a file that keeps the session and its messages over a restart of the program."""
        self.url, self.on_event, self.id, self.cursor, self.keys = urlsplit(url), on_event, None, None, 0
        self.retry, self.failures, self.batch = 1, 0, 100
        # `unsure` is the number of messages at the start of the outbox that were sent, but have no response.
        self.outbox, self.unsure, self.connected, self.is_closed, self.changed = [], 0, False, False, threading.Condition(threading.RLock())
        self.path = path
        if path and os.path.exists(path):
            with open(path) as file: self.id, self.cursor, self.keys, self.outbox, self.unsure = json.load(file)
        threading.Thread(target=self._deliver, daemon=True).start()

    def save(self):
        if not self.path: return
        with self.changed:
            with open(self.path + '.new', 'w') as file: json.dump([self.id, self.cursor, self.keys, self.outbox, self.unsure], file)
            os.replace(self.path + '.new', self.path)

    def send(self, event, data=None):
        with self.changed:
            self.keys += 1
            self.outbox.append(json.dumps({'event': event, 'data': data, 'id': str(self.keys)}))
            self.save()
            self.changed.notify()

    def run(self):
        """Receives events until the session is closed. Returns the reason."""
        while True:
            response, headers = None, {'Accept': 'text/event-stream'}
            if self.cursor: headers['Last-Event-ID'] = self.cursor
            try:
                response = self._request('GET', '/downward', headers, timeout=37.5)  # until the welcome
                if is_refusal(response.status): return f'status {response.status}'
                if response.headers.get_content_type() == 'text/event-stream':
                    reason = self._read(response)
                    if reason: return reason
            except FAILURES: pass  # the connection is lost, or was silent for too long
            self.connected = False
            self._wait(self.failures, response)
            self.failures += 1

    def close(self):
        try:
            if self.id: self._request('DELETE', '/downward', {'X-Session-ID': self.id})
        except FAILURES: pass  # the session expires

    def _request(self, method, path, headers, body=None, timeout=15):
        connect = http.client.HTTPSConnection if self.url.scheme == 'https' else http.client.HTTPConnection
        connection = connect(self.url.netloc, timeout=timeout)
        connection.request(method, self.url.path + path, body, {**headers, 'Connection': 'close'})
        if method == 'GET': self.stream, self.opened = connection.sock, time.monotonic()
        return connection.getresponse()

    def _wait(self, failures, response):
        delay, after = self.retry + random.uniform(0, min(10, self.retry * 2 ** min(failures, 10))), 0
        if response and 'Retry-After' in response.headers:
            value = response.headers['Retry-After']
            now = response.headers.get('Date', formatdate(usegmt=True))
            after = int(value) if value.isdecimal() else (parsedate_to_datetime(value) - parsedate_to_datetime(now)).total_seconds()
        time.sleep(max(delay, after))

    def _read(self, response):
        name, data, id = 'message', '', None
        for line in io.TextIOWrapper(response, 'utf-8'):  # ends lines at LF, CR and CRLF
            field, _, value = line.rstrip('\n').partition(':')
            value = value.removeprefix(' ')
            if field == 'retry': self.retry = int(value) / 1000
            elif field == 'event': name = value
            elif field == 'data': data += value
            elif field == 'id': id = value
            elif line == '\n':
                if name in ('close', 'replaced'):
                    self.is_closed = name == 'close'
                    return json.loads(data).get('reason', name)
                if data and name == 'welcome': self._welcome(json.loads(data))
                elif data: self._notify(name, json.loads(data))
                self.cursor, name, data, id = id or self.cursor, 'message', '', None
                self.save()

    def _welcome(self, data):
        is_lost = self.id not in (None, data['sessionId'])
        self.stream.settimeout(data['heartbeatInterval'] / 400 if 'heartbeatInterval' in data else None)
        with self.changed:
            if is_lost: del self.outbox[:self.unsure]  # a repeat in the new session could be handled twice
            if is_lost: self.unsure = 0
            self.id, self.connected, self.failures = data['sessionId'], True, 0
            self.changed.notify()
        if is_lost: self._notify('lost', None)

    def _notify(self, name, data):
        try: self.on_event(name, data)
        # `run` would take it for a lost connection, and the event would be repeated.
        except FAILURES as error: raise RuntimeError('on_event failed') from error

    def _deliver(self):
        failures = 0
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.connected and self.outbox)
                id, lines, unsure = self.id, self.outbox[:self.batch], self.unsure
                self.unsure = max(unsure, len(lines))
                self.save()
            response, body, results, done = None, None, [], 0
            try:
                response = self._request('POST', '/upward', {'X-Session-ID': id, 'Content-Type': 'application/x-ndjson'}, '\n'.join(lines))
                text = response.read()
                body = json.loads(text) if response.headers.get_content_type() == 'application/json' else None
                # Any other body with the status 200 is not the response of this server.
                if response.status == 200 and isinstance(body, list) and len(body) == len(lines): results = body
                elif is_refusal(response.status): results = [{'status': response.status, 'body': body}] * len(lines)
            except (*FAILURES, ValueError): pass  # no complete response
            if results and len(lines) > 1 and response.status in (400, 413):
                with self.changed:
                    self.batch = len(lines) // 2
                    if id == self.id: self.unsure = unsure
                continue
            codes = [isinstance(result.get('body'), dict) and result['body'].get('code') for result in results]
            is_unknown = 'FST_SSE_SESSION_UNKNOWN' in codes
            while done < len(results) and (results[done]['status'] not in (429, 503) or results[done].get('replayed')) and codes[done] != 'FST_SSE_SESSION_UNKNOWN': done += 1
            with self.changed:
                if id != self.id: continue
                del self.outbox[:done]
                # A 503 without a code of this server can come from a proxy.
                is_closing = response and response.status == 503 and isinstance(body, dict) and str(body.get('code')).startswith('FST_SSE_')
                was_refused = results or is_closing or response and response.status == 429
                self.unsure = max(0, (unsure if was_refused else self.unsure) - done)
                if is_unknown: self.connected = False
                self.save()
            for result in results[:done]:
                if result['status'] >= 400: self.on_event('refused', {'status': result['status']})
            is_stale = response and response.headers.get('X-Session-Connected') == 'false' and time.monotonic() - self.opened > self.retry
            try:
                if is_unknown or is_stale: self.stream.shutdown(socket.SHUT_RDWR)
            except OSError: pass  # it has ended already
            failures = 0 if done else failures + 1
            if done: self.batch = 100
            else: self._wait(failures, response)

if __name__ == '__main__':
    def on_event(name, data):
        if name in ('echo', 'lost', 'refused'): session.send(name, data)
        if name == 'gap': session.send('missed', data)
        if name == 'leave': session.close()
    session = Session(sys.argv[1], on_event)
    reason = session.run()
    sys.exit(0 if session.is_closed else f'The stream has ended: {reason}')
