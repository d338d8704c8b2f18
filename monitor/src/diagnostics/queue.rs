//! Diagnostics on their way to standard error. Its reader may be stuck, and nothing may wait for it but one thread.

use std::collections::VecDeque;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Lines that wait to be written.
#[derive(Debug)]
pub(super) struct Queue {
    /// How many bytes may wait; a line that is longer waits alone.
    most: usize,
    state: Mutex<State>,
    /// There is a line.
    some: Condvar,
    /// There is none, and none is being written.
    none: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    /// Those of the line that is being written, too.
    bytes: usize,
    writing: bool,
    lost: u64,
}

impl Queue {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            state: Mutex::default(),
            some: Condvar::new(),
            none: Condvar::new(),
        }
    }

    /// Adds a line. One for which there is no room is counted and forgotten.
    pub(super) fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        if state.bytes > 0 && state.bytes + line.len() > self.most {
            state.lost += 1;
            return;
        }
        state.bytes += line.len();
        state.lines.push_back(line.to_vec());
        self.some.notify_one();
    }

    /// How many lines were lost so far: there was no room, or they could not be written.
    pub(super) fn lost(&self) -> u64 {
        self.lock().lost
    }

    /// Writes lines as they come, for ever. Calls `flows` when nothing waits any more and lines were lost since
    /// the last time, with their number.
    pub(super) fn run(&self, mut to: impl io::Write, flows: impl Fn(u64)) {
        let mut said = 0;
        loop {
            let line = self.next();
            let written = to.write_all(&line).is_ok();
            let mut state = self.lock();
            state.bytes -= line.len();
            state.lost += u64::from(!written);
            let (through, lost) = (written && state.lines.is_empty(), state.lost);
            drop(state);
            if through && lost > said {
                flows(lost - said);
                said = lost;
            }
        }
    }

    fn next(&self) -> Vec<u8> {
        let mut state = self.lock();
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.writing = true;
                return line;
            }
            state.writing = false;
            self.none.notify_all();
            let waited = self.some.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until all is written, so long at most.
    pub(super) fn finish(&self, within: Duration) {
        let waits = |state: &mut State| state.writing || !state.lines.is_empty();
        // Whether it was in time makes no difference: who does not read gets no more.
        drop(self.none.wait_timeout_while(self.lock(), within, waits));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, pipe};
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// A queue of so many bytes with a thread that writes to a pipe, which the test reads.
    fn begin(most: usize) -> (Arc<Queue>, BufReader<io::PipeReader>) {
        let queue = Arc::new(Queue::new(most));
        let (reader, writer) = pipe().unwrap();
        let written = Arc::clone(&queue);
        std::thread::spawn(move || {
            let flows = |count: u64| written.push(format!("lost {count}\n").as_bytes());
            written.run(writer, flows);
        });
        (queue, BufReader::new(reader))
    }

    #[test]
    fn nothing_waits_for_a_stuck_reader_and_what_is_lost_is_counted() {
        const LINES: usize = 3000;
        let (queue, reader) = begin(10_000);
        // More than a pipe and the queue hold.
        let line = |number: usize| format!("{number:0>99}\n");
        for number in 0..LINES {
            queue.push(line(number).as_bytes());
        }
        let begin = Instant::now();
        queue.finish(Duration::from_millis(50));
        assert!(begin.elapsed() < LONG, "it waits for the reader");
        let lost = queue.lost();
        assert!(lost > 0, "the pipe was not full");

        let mut read = Vec::new();
        for line in reader.lines().map(Result::unwrap) {
            if let Some(count) = line.strip_prefix("lost ") {
                assert_eq!(count, lost.to_string());
                break;
            }
            read.push(line);
        }
        assert_eq!(read.len() as u64 + lost, LINES as u64);
        assert!(read.is_sorted(), "another order");
        assert_eq!(queue.lost(), lost);
    }

    #[test]
    fn what_was_said_is_written_before_the_end() {
        let (queue, mut reader) = begin(10);
        let reading = std::thread::spawn(move || {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            line
        });
        queue.push(b"a line of more bytes than may wait\n");
        queue.finish(LONG);
        assert_eq!(
            reading.join().unwrap(),
            "a line of more bytes than may wait\n"
        );
        assert_eq!(queue.lost(), 0);
    }

    #[test]
    fn a_line_that_cannot_be_written_is_lost_and_the_next_one_is_tried() {
        struct Broken(u32, io::PipeWriter);
        impl io::Write for Broken {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 += 1;
                if self.0 < 3 {
                    return Err(io::Error::from_raw_os_error(libc::ENOSPC));
                }
                self.1.write(bytes)
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let queue = Arc::new(Queue::new(100));
        let (reader, writer) = pipe().unwrap();
        let written = Arc::clone(&queue);
        std::thread::spawn(move || {
            let flows = |count: u64| written.push(format!("lost {count}\n").as_bytes());
            written.run(Broken(0, writer), flows);
        });
        for line in ["a\n", "b\n", "c\n"] {
            queue.push(line.as_bytes());
        }
        let lines: Vec<_> = BufReader::new(reader).lines().take(2).collect();
        let lines: Vec<_> = lines.into_iter().map(Result::unwrap).collect();
        assert_eq!(lines, ["c", "lost 2"]);
    }
}
