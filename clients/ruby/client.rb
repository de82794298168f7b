# A client with net/http. Run `ruby client.rb <URL>`, or require it and use `Session`.
require 'json'
require 'monitor'
require 'net/http'
require 'time'

class Session
  # What net/http raises if there is no complete response.
  FAILURES = [IOError, SystemCallError, SocketError, OpenSSL::SSL::SSLError, Timeout::Error, Net::ProtocolError, Net::HTTPBadResponse].freeze

  attr_reader :is_closed

  # Yields (name, data) of events, and also `lost` (the session was lost, and there is a new one) and `refused` (the server has refused a message).
  def initialize(url, &on_event)
    @url, @on_event, @key, @failures, @retry, @batch = URI(url), on_event, 0, 0, 1.0, 100
    # `unsure` is the number of messages at the start of the outbox that were sent, but have no response.
    @outbox, @unsure, @lock = [], 0, Monitor.new
    @changed = @lock.new_cond
    Thread.new { deliver }.report_on_exception = true
  end

  def send(event, data = nil)
    @lock.synchronize do
      @outbox << { event:, data:, id: (@key += 1).to_s }.to_json
      @changed.signal
    end
  end

  # Receives events until the session is closed. Returns the reason.
  def run
    loop do
      @response = nil
      reason = catch(:stop) { receive && nil }
      return reason if reason
      @connected = false
      wait(@failures, @response)
      @failures += 1
    end
  end

  def close
    @id && http { |http| http.delete("#{@url.path}/downward", 'X-Session-ID' => @id) }
  rescue *FAILURES
    nil # the session expires
  end

  private

  def http(timeout = 15, &) = Net::HTTP.start(@url.host, @url.port, use_ssl: @url.scheme == 'https', read_timeout: timeout, max_retries: 0, &)

  def refusal?(status) = status == 204 || (400...500).cover?(status) && ![408, 421, 425, 429].include?(status)

  def wait(failures, response)
    after = response && response['Retry-After'] || '0'
    seconds = after.match?(/\A\d+\z/) ? after.to_i : Time.httpdate(after) - Time.httpdate(response['Date'] || Time.now.httpdate)
    sleep [@retry + rand * [10, @retry * 2**failures].min, seconds].max
  end

  def receive
    @opened = Process.clock_gettime(Process::CLOCK_MONOTONIC)
    headers = { 'Accept' => 'text/event-stream', 'Last-Event-ID' => @cursor }.compact
    http(37.5) do |http| # until the welcome
      @stream = http
      http.request_get("#{@url.path}/downward", headers) do |response|
        @response = response
        throw :stop, "status #{response.code}" if refusal?(response.code.to_i)
        read(response) if response.code == '200' && response.content_type == 'text/event-stream'
      end
    end
  rescue *FAILURES
    nil # the connection is lost, or was silent for too long
  end

  def read(response)
    text, event = +'', {}
    response.read_body do |chunk|
      text << chunk
      # A CR at the end can be the first half of CRLF.
      while (line = text.slice!(/\A[^\r\n]*(\r\n|\n|\r(?!\z))/))
        field, value = line.chomp.force_encoding('UTF-8').split(/: ?/, 2)
        if field == 'retry' then @retry = value.to_i / 1000.0
        elsif field == 'data' then event['data'] = event['data'].to_s + value
        elsif field then event[field] = value
        else
          dispatch(event['event'] || 'message', JSON.parse(event['data'])) if event['data']
          @cursor = event['id'] || @cursor
          event = {}
        end
      end
    end
  end

  def dispatch(name, data)
    @is_closed = name == 'close'
    throw :stop, data['reason'] || name if %w[close replaced].include?(name)
    return notify(name, data) if name != 'welcome'
    @stream.read_timeout = data['heartbeatInterval'] && data['heartbeatInterval'] / 400.0
    is_lost = @id && @id != data['sessionId']
    @lock.synchronize do
      @outbox.shift(@unsure) if is_lost # a repeat in the new session could be handled twice
      @unsure = 0 if is_lost
      @id, @connected, @failures = data['sessionId'], true, 0
      @changed.signal
    end
    notify('lost', nil) if is_lost
  end

  def notify(name, data)
    @on_event.call(name, data)
  rescue *FAILURES
    raise 'on_event failed' # `receive` would take it for a lost connection, and the event would be repeated
  end

  def post(id, lines)
    headers = { 'X-Session-ID' => id, 'Content-Type' => 'application/x-ndjson' }
    response = http { |http| http.post("#{@url.path}/upward", lines.join("\n"), headers) }
    body = JSON.parse(response.body) if response.content_type == 'application/json'
    # Any other body with the status 200 is not the response of this server.
    results = if response.code == '200' then (body if body.is_a?(Array) && body.size == lines.size)
              elsif refusal?(response.code.to_i) then [{ 'status' => response.code.to_i, 'body' => body }] * lines.size
              end
    # A 503 without a code of this server can come from a proxy.
    has_code = body.is_a?(Hash) && body['code'].to_s.start_with?('FST_SSE_')
    [response, results, results || response.code == '429' || (response.code == '503' && has_code)]
  rescue *FAILURES, JSON::ParserError
    [nil, nil, false] # no complete response
  end

  def deliver
    failures = 0
    loop do
      id, lines, unsure = @lock.synchronize do
        @changed.wait_until { @connected && !@outbox.empty? }
        before, @unsure = @unsure, [@unsure, [@batch, @outbox.size].min].max
        [@id, @outbox.first(@batch), before]
      end
      response, results, was_refused = post(id, lines)
      if results && lines.size > 1 && %w[400 413].include?(response.code)
        @lock.synchronize { @batch, @unsure = lines.size / 2, id == @id ? unsure : @unsure }
        next
      end
      codes = (results || []).map { |result| result['body']['code'] if result['body'].is_a?(Hash) }
      is_unknown = codes.include?('FST_SSE_SESSION_UNKNOWN')
      done = (results || []).zip(codes).take_while { |result, code| (result['replayed'] || ![429, 503].include?(result['status'])) && code != 'FST_SSE_SESSION_UNKNOWN' }
      is_current = @lock.synchronize do
        next if id != @id # the session is lost
        @outbox.shift(done.size)
        @unsure = [0, (was_refused ? unsure : @unsure) - done.size].max
        @connected = false if is_unknown
        true
      end
      next unless is_current
      done.each { |result,| @on_event.call('refused', { status: result['status'] }) if result['status'] >= 400 }
      is_stale = response && response['X-Session-Connected'] == 'false' && Process.clock_gettime(Process::CLOCK_MONOTONIC) - @opened > @retry
      @stream.finish if (is_unknown || is_stale) && @stream.started?
      done.empty? ? wait(failures += 1, response) : (failures, @batch = 0, 100)
    end
  end
end

if $PROGRAM_NAME == __FILE__
  session = Session.new(ARGV[0]) do |name, data|
    session.send(name, data) if %w[echo lost refused].include?(name)
    session.send('missed', data) if name == 'gap'
    session.close if name == 'leave'
  end
  reason = session.run
  abort "The stream has ended: #{reason}" unless session.is_closed
end
