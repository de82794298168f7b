<?php
// A client with curl. Run `php client.php <URL>`, or include it and use `Session`.
declare(strict_types=1);

final class Session
{
    private CurlMultiHandle $curl;
    private ?CurlHandle $stream = null, $post = null;
    private ?string $id = null, $postedIn = null, $cursor = null, $reason = null;
    private array $headers = [], $outbox = [], $batch = [], $event = [];
    private float $retry = 1, $silence = 37.5, $openedAt = 0, $readAt = 0, $reconnectAt = 0, $sendAt = 0;
    private int $failures = 0, $sendFailures = 0, $key = 0, $limit = 100;
    private bool $isConnected = false;
    private string $text = '';

    /** Calls $onEvent(name, data) for events, and also with `lost` (the session was lost, and there is a new one) and `refused` (the server has refused a message). */
    public function __construct(private string $url, private Closure $onEvent)
    {
        $this->curl = curl_multi_init();
    }

    public function send(string $event, mixed $data = null): void
    {
        $line = json_encode(['event' => $event, 'data' => $data, 'id' => (string) ++$this->key]);
        // `triedIn` is the session in which the message may have been handled.
        $this->outbox[] = (object) ['line' => $line, 'triedIn' => null];
    }

    public function close(): void
    {
        if ($this->id !== null) {
            curl_exec($this->request('DELETE', '/downward', ["X-Session-ID: $this->id"]));
        }
    }

    /** Receives events until the session is closed. Returns the reason. */
    public function run(): string
    {
        while ($this->reason === null) {
            $now = hrtime(true) / 1e9;
            if ($this->stream === null && $now >= $this->reconnectAt) {
                $this->openStream($now);
            } elseif ($this->stream !== null && $now >= $this->readAt + $this->silence) {
                $this->endStream();
            }
            if ($this->post === null && $this->isConnected && $this->outbox && $now >= $this->sendAt) {
                $this->sendBatch();
            }
            curl_multi_exec($this->curl, $running);
            while ($done = curl_multi_info_read($this->curl)) {
                $method = $done['handle'] === $this->stream ? 'GET' : 'POST';
                // curl reports success for a response that ends within its headers. Then the empty line after the headers is missing.
                $isComplete = $done['result'] === CURLE_OK && isset($this->headers[$method]['']);
                $status = $isComplete ? curl_getinfo($done['handle'], CURLINFO_RESPONSE_CODE) : 0;
                $method === 'GET' ? $this->endStream($status) : $this->onResponse($status);
            }
            $running ? curl_multi_select($this->curl, 0.1) : usleep(10_000);
        }
        return $this->reason;
    }

    private function request(string $method, string $path, array $headers, array $options = []): CurlHandle
    {
        $this->headers[$method] = [];
        $handle = curl_init($this->url . $path);
        curl_setopt_array($handle, $options + [
            CURLOPT_CUSTOMREQUEST => $method,
            CURLOPT_HTTPHEADER => $headers,
            CURLOPT_TIMEOUT => 15,
            CURLOPT_FORBID_REUSE => true, // curl repeats a request by itself if it has lost a connection that it reused
            CURLOPT_HEADERFUNCTION => function (CurlHandle $handle, string $line) use ($method): int {
                [$name, $value] = explode(':', $line, 2) + [1 => ''];
                $this->headers[$method][strtolower(trim($name))] = trim($value);
                return strlen($line);
            },
        ]);
        return $handle;
    }

    private static function isRefusal(int $status): bool
    {
        return $status > 200 && $status < 500 && !in_array($status, [408, 421, 425, 429], true);
    }

    private function nextAttemptAt(int $failures, string $method): float
    {
        ['retry-after' => $after, 'date' => $date] = $this->headers[$method] + ['retry-after' => '0', 'date' => 'now'];
        $delay = $this->retry + min(10, $this->retry * 2 ** $failures) * mt_rand() / mt_getrandmax();
        return hrtime(true) / 1e9 + max($delay, ctype_digit($after) ? (int) $after : strtotime($after) - strtotime($date));
    }

    private function openStream(float $now): void
    {
        [$this->text, $this->event, $this->silence, $this->openedAt, $this->readAt] = ['', [], 37.5, $now, $now];
        $headers = ['Accept: text/event-stream'];
        if ($this->cursor !== null) {
            $headers[] = "Last-Event-ID: $this->cursor";
        }
        $this->stream = $this->request('GET', '/downward', $headers, [
            CURLOPT_TIMEOUT => 0,
            CURLOPT_WRITEFUNCTION => function (CurlHandle $stream, string $chunk): int {
                $this->readAt = hrtime(true) / 1e9;
                if (str_starts_with($this->headers['GET']['content-type'] ?? '', 'text/event-stream')) {
                    $this->parse($chunk);
                }
                return strlen($chunk);
            },
        ]);
        curl_multi_add_handle($this->curl, $this->stream);
    }

    private function endStream(int $status = 0): void
    {
        if (self::isRefusal($status)) {
            $this->reason = "status $status";
        }
        curl_multi_remove_handle($this->curl, $this->stream);
        [$this->stream, $this->isConnected] = [null, false];
        $this->reconnectAt = $this->nextAttemptAt($this->failures++, 'GET');
    }

    private function parse(string $chunk): void
    {
        // A CR at the end can be the first half of CRLF.
        $lines = preg_split('/\r\n|\n|\r(?!\z)/', $this->text . $chunk);
        $this->text = array_pop($lines);
        foreach ($lines as $line) {
            [$field, $value] = preg_split('/: ?/', $line, 2) + [1 => ''];
            if ($field === 'retry') {
                $this->retry = $value / 1000;
            } elseif ($field === 'data') {
                $this->event['data'] = ($this->event['data'] ?? '') . $value;
            } elseif ($line !== '') {
                $this->event[$field] = $value;
            } elseif ($this->reason === null) {
                if (isset($this->event['data'])) {
                    $this->dispatch($this->event['event'] ?? 'message', json_decode($this->event['data']));
                }
                $this->cursor = $this->event['id'] ?? $this->cursor;
                $this->event = [];
            }
        }
    }

    private function dispatch(string $name, mixed $data): void
    {
        if ($name === 'close' || $name === 'replaced') {
            $this->reason = $name;
        } elseif ($name === 'welcome') {
            $isLost = $this->id !== null && $this->id !== $data->sessionId;
            [$this->id, $this->isConnected, $this->failures] = [$data->sessionId, true, 0];
            $this->silence = ($data->heartbeatInterval ?? INF) / 400;
            if ($isLost) {
                ($this->onEvent)('lost', null);
            }
        } else {
            ($this->onEvent)($name, $data);
        }
    }

    private function sendBatch(): void
    {
        // A new session does not have the keys of a lost one: a repeat could be handled twice.
        $canSend = fn (object $message): bool => $message->triedIn === null || $message->triedIn === $this->id;
        $this->outbox = array_values(array_filter($this->outbox, $canSend));
        if ($this->outbox) {
            [$this->batch, $this->postedIn] = [array_slice($this->outbox, 0, $this->limit), $this->id];
            $headers = ["X-Session-ID: $this->id", 'Content-Type: application/x-ndjson'];
            $body = implode("\n", array_column($this->batch, 'line'));
            $this->post = $this->request('POST', '/upward', $headers, [CURLOPT_POSTFIELDS => $body, CURLOPT_RETURNTRANSFER => true]);
            curl_multi_add_handle($this->curl, $this->post);
        }
    }

    private function onResponse(int $status): void
    {
        $body = json_decode(curl_multi_getcontent($this->post) ?? '');
        curl_multi_remove_handle($this->curl, $this->post);
        [$this->post, $count] = [null, count($this->batch)];
        if (($status === 400 || $status === 413) && $count > 1) {
            $this->limit = intdiv($count, 2);
            return;
        }
        // After 4xx, and 503 with a code of this server, no message was handled. With 0, the outcome is unknown.
        $hasCode = is_object($body) && str_starts_with(json_encode($body->code ?? ''), '"FST_SSE_');
        $results = match (true) {
            $status === 200 && is_array($body) && count($body) === $count => $body,
            self::isRefusal($status) => array_fill(0, $count, (object) ['status' => $status, 'body' => $body]),
            default => array_fill(0, $count, (object) ['status' => $status === 503 && $hasCode || intdiv($status, 100) === 4 ? 503 : 0]),
        };
        $repeats = $refused = [];
        foreach ($results as $index => $result) {
            $isUnknown = is_object($result->body ?? null) && ($result->body->code ?? '') === 'FST_SSE_SESSION_UNKNOWN';
            if ($result->status === 0) {
                $this->batch[$index]->triedIn = $this->postedIn;
            }
            if ($isUnknown || in_array($result->status, [0, 429, 503], true) && !($result->replayed ?? false)) {
                $repeats[] = $this->batch[$index];
            } elseif ($result->status >= 400) {
                $refused[] = $result->status;
            }
        }
        array_splice($this->outbox, 0, $count, $repeats);
        foreach ($refused as $status) {
            ($this->onEvent)('refused', ['status' => $status]);
        }
        $isStale = ($this->headers['POST']['x-session-connected'] ?? '') === 'false' && hrtime(true) / 1e9 > $this->openedAt + $this->retry;
        if ($this->stream !== null && ($isUnknown || $isStale)) {
            $this->endStream();
        }
        if (count($repeats) < $count) {
            [$this->sendFailures, $this->limit] = [0, 100];
        } else {
            $this->sendAt = $this->nextAttemptAt(++$this->sendFailures, 'POST');
        }
    }
}

if (realpath($argv[0]) === __FILE__) {
    $session = new Session($argv[1], function (string $name, mixed $data) use (&$session): void {
        match ($name) {
            'echo', 'lost', 'refused' => $session->send($name, $data),
            'gap' => $session->send('missed', $data),
            'leave' => $session->close(),
            default => null,
        };
    });
    $reason = $session->run();
    if ($reason !== 'close') {
        fwrite(STDERR, "The stream has ended: $reason\n");
        exit(1);
    }
}
