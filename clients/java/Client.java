import java.io.IOException;
import java.io.InputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.Duration;
import java.time.ZonedDateTime;
import java.time.format.DateTimeFormatter;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Set;
import java.util.Timer;
import java.util.TimerTask;
import java.util.function.BiConsumer;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** A client with java.net.http: java Client.java URL. It passes data on as JSON text, because Java has no parser for JSON. */
public class Client {
    private record Result(int status, boolean isReplayed) { }

    private static final String UNKNOWN = "FST_SSE_SESSION_UNKNOWN";
    private final HttpClient http = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
    private final String url;
    private final BiConsumer<String, String> onEvent; // also `lost` (the session was lost, and there is a new one) and `refused` (the server has refused a message)
    private final List<String> outbox = new ArrayList<>();
    private volatile String id, cursor, reason;
    private volatile long retry = 1000, silence, opened, readAt;
    private int unsure, batch = 100, failures, key; // `unsure` messages at the start of the outbox were sent, but have no response
    private boolean isConnected;
    private volatile InputStream stream;

    Client(String url, BiConsumer<String, String> onEvent) {
        this.url = url;
        this.onEvent = onEvent;
        Thread sender = new Thread(this::deliver);
        sender.setDaemon(true);
        sender.start();
        new Timer(true).schedule(new TimerTask() {
            @Override public void run() {
                if (stream != null && System.currentTimeMillis() - readAt > silence) abort();
            }
        }, 100, 100);
    }

    synchronized void send(String event, String data) {
        outbox.add("{\"event\":\"%s\",\"data\":%s,\"id\":\"%d\"}".formatted(event, data, ++key));
        notifyAll();
    }

    void close() {
        if (id == null) return; // there is no session yet
        try {
            http.send(request("/downward").header("X-Session-ID", id).DELETE().build(), BodyHandlers.discarding());
        } catch (IOException | InterruptedException error) { /* the session expires */ }
    }

    /** Receives events until the session is closed. Returns the reason. */
    String run() throws InterruptedException {
        while (true) {
            HttpResponse<InputStream> response = null;
            try {
                HttpRequest.Builder request = request("/downward").header("Accept", "text/event-stream");
                if (cursor != null) request.header("Last-Event-ID", cursor);
                opened = System.currentTimeMillis();
                response = http.send(request.build(), BodyHandlers.ofInputStream());
                if (isRefusal(response.statusCode())) return "status " + response.statusCode();
                if (response.headers().firstValue("Content-Type").orElse("").startsWith("text/event-stream")) read(response.body());
            } catch (IOException error) { /* the connection is lost, or was silent for too long */ }
            if (reason != null) return reason;
            stream = null;
            synchronized (this) { isConnected = false; }
            pause(failures++, response);
        }
    }

    private HttpRequest.Builder request(String path) {
        return HttpRequest.newBuilder(URI.create(url + path)).timeout(Duration.ofSeconds(15));
    }

    private static boolean isRefusal(int status) {
        return status == 204 || status >= 400 && status < 500 && !Set.of(408, 421, 425, 429).contains(status);
    }

    private void pause(int failures, HttpResponse<?> response) throws InterruptedException {
        double delay = retry + Math.random() * Math.min(10_000, retry * Math.pow(2, failures));
        String after = response == null ? "0" : response.headers().firstValue("Retry-After").orElse("0");
        long seconds = after.matches("\\d+") ? Long.parseLong(after) : parseDate(after) - response.headers().firstValue("Date").map(Client::parseDate).orElse(System.currentTimeMillis() / 1000);
        Thread.sleep(Math.max((long) delay, seconds * 1000));
    }

    private static long parseDate(String date) {
        return ZonedDateTime.parse(date, DateTimeFormatter.RFC_1123_DATE_TIME).toEpochSecond();
    }

    private void abort() {
        try {
            if (stream != null) stream.close();
        } catch (IOException error) { /* it is lost already */ }
    }

    private void read(InputStream body) throws IOException {
        silence = 37_500; // until the welcome
        readAt = System.currentTimeMillis();
        stream = body;
        String name = "message", data = "", eventId = null, text = "";
        byte[] chunk = new byte[4096];
        // In ISO 8859-1, each byte is a character, so a chunk can end within a character of UTF-8.
        for (int length; reason == null && (length = body.read(chunk)) >= 0;) {
            readAt = System.currentTimeMillis();
            text += new String(chunk, 0, length, "ISO-8859-1");
            // A CR at the end can be the first half of CRLF.
            Matcher lines = Pattern.compile("\\G([^\r\n]*+)(?:\r\n|\n|\r(?!\\z))").matcher(text);
            int end = 0;
            for (; lines.find() && reason == null; end = lines.end()) {
                String line = new String(lines.group(1).getBytes("ISO-8859-1"), "UTF-8");
                String[] parts = line.split(": ?", 2);
                String value = parts.length > 1 ? parts[1] : "";
                switch (parts[0]) {
                    case "retry" -> retry = Long.parseLong(value);
                    case "event" -> name = value;
                    case "data" -> data += value;
                    case "id" -> eventId = value;
                    default -> {
                        if (!line.isEmpty()) continue;
                        if (name.equals("close") || name.equals("replaced")) reason = name;
                        else if (name.equals("welcome")) welcome(data);
                        else if (!data.isEmpty()) onEvent.accept(name, data);
                        if (eventId != null) cursor = eventId;
                        name = "message";
                        data = "";
                        eventId = null;
                    }
                }
            }
            text = text.substring(end);
        }
    }

    private static String find(String regex, String text) {
        Matcher matcher = Pattern.compile(regex).matcher(text);
        return matcher.find() ? matcher.group(1) : null;
    }

    private void welcome(String data) {
        String sessionId = find("\"sessionId\":\"([^\"]+)\"", data), interval = find("\"heartbeatInterval\":(\\d+)", data);
        silence = interval == null ? Long.MAX_VALUE : Long.parseLong(interval) * 5 / 2;
        boolean isLost = id != null && !id.equals(sessionId);
        synchronized (this) {
            if (isLost) { // a repeat in the new session could be handled twice
                outbox.subList(0, unsure).clear();
                unsure = 0;
            }
            id = sessionId;
            isConnected = true;
            failures = 0;
            notifyAll();
        }
        if (isLost) onEvent.accept("lost", "null");
    }

    private static boolean isDone(Result result, boolean isUnknown) {
        return result.isReplayed || !Set.of(429, 503).contains(result.status) && !(isUnknown && result.status == 404);
    }

    private void deliver() {
        try {
            for (int failures = 0;;) {
                String session;
                List<String> lines;
                int before;
                synchronized (this) {
                    while (!isConnected || outbox.isEmpty()) wait();
                    session = id;
                    lines = List.copyOf(outbox.subList(0, Math.min(batch, outbox.size())));
                    before = unsure;
                    unsure = Math.max(unsure, lines.size());
                }
                HttpResponse<String> response = null;
                List<Result> results = List.of();
                try {
                    response = http.send(request("/upward").header("X-Session-ID", session).header("Content-Type", "application/x-ndjson")
                        .POST(BodyPublishers.ofString(String.join("\n", lines))).build(), BodyHandlers.ofString());
                    // Without a parser, this finds the statuses only if no handler returns an object with a numeric `status`.
                    if (response.statusCode() == 200 && response.body().startsWith("[")) results = Pattern.compile("\"status\":(\\d{3})((?!\"status\":\\d).)*").matcher(response.body()).results().map(match -> new Result(Integer.parseInt(match.group(1)), match.group().contains("\"replayed\":true"))).toList();
                    else if (isRefusal(response.statusCode())) results = Collections.nCopies(lines.size(), new Result(response.statusCode(), false));
                    if (results.size() != lines.size()) results = List.of();
                } catch (IOException error) { /* no complete response */ }
                int status = response == null ? 0 : response.statusCode(), done = 0;
                boolean isUnknown = !results.isEmpty() && response.body().contains(UNKNOWN);
                synchronized (this) {
                    if (!session.equals(id)) continue; // the session is lost
                    // A 503 without a code of this server can come from a proxy.
                    if (!results.isEmpty() || status == 429 || status == 503 && response.body().contains("\"code\":\"FST_SSE_")) unsure = before; // the others were not handled
                    if (results.size() > 1 && (status == 400 || status == 413)) {
                        batch = lines.size() / 2;
                        continue;
                    }
                    while (done < results.size() && isDone(results.get(done), isUnknown)) done++;
                    outbox.subList(0, done).clear();
                    unsure = Math.max(0, unsure - done);
                    if (isUnknown) isConnected = false;
                }
                results.subList(0, done).stream().filter(result -> result.status >= 400).forEach(result -> onEvent.accept("refused", "{\"status\":" + result.status + "}"));
                boolean isStale = response != null && response.headers().firstValue("X-Session-Connected").orElse("").equals("false");
                if (isUnknown || isStale && System.currentTimeMillis() - opened > retry) abort();
                if (done > 0) {
                    failures = 0;
                    batch = 100;
                } else pause(++failures, response);
            }
        } catch (InterruptedException error) {
            Thread.currentThread().interrupt();
        }
    }

    public static void main(String[] args) throws InterruptedException {
        Client[] client = new Client[1];
        client[0] = new Client(args[0], (name, data) -> {
            switch (name) {
                case "echo", "lost", "refused" -> client[0].send(name, data);
                case "gap" -> client[0].send("missed", data);
                case "leave" -> client[0].close();
                default -> { }
            }
        });
        String reason = client[0].run();
        System.err.println("The stream has ended: " + reason);
        System.exit(reason.equals("close") ? 0 : 1);
    }
}
