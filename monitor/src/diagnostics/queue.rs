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
    use std::sync::{Arc, mpsc};
    use std::time::Instant;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// Takes what is written, and each write only when it is told whether that goes well, until nobody tells.
    struct Reader {
        told: mpsc::Receiver<bool>,
        read: Arc<Mutex<String>>,
    }

    impl io::Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.told.recv() == Ok(false) {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            let text = str::from_utf8(bytes).unwrap();
            self.read.lock().unwrap().push_str(text);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A queue of so many bytes with a thread that writes, what tells its reader, and what that has read.
    fn begin(most: usize) -> (Arc<Queue>, mpsc::Sender<bool>, Arc<Mutex<String>>) {
        let queue = Arc::new(Queue::new(most));
        let (tell, told) = mpsc::channel();
        let read = Arc::default();
        let reader = Reader {
            told,
            read: Arc::clone(&read),
        };
        let written = Arc::clone(&queue);
        std::thread::spawn(move || {
            let flows = |count: u64| written.push(format!("lost {count}\n").as_bytes());
            written.run(reader, flows);
        });
        (queue, tell, read)
    }

    #[test]
    fn nothing_waits_for_a_stuck_reader_and_what_is_lost_is_counted() {
        let (queue, tell, read) = begin(20);
        for number in 0..30 {
            queue.push(format!("{number:0>3}\n").as_bytes());
        }
        let begin = Instant::now();
        queue.finish(Duration::from_millis(50));
        assert!(begin.elapsed() < LONG, "it waits for the reader");
        assert_eq!(queue.lost(), 25);
        assert_eq!(*read.lock().unwrap(), "");
        drop(tell);
        queue.finish(LONG);
        assert_eq!(*read.lock().unwrap(), "000\n001\n002\n003\n004\nlost 25\n");
        queue.push(b"a line of more bytes than may wait\n");
        queue.finish(LONG);
        assert!(
            read.lock()
                .unwrap()
                .ends_with("lost 25\na line of more bytes than may wait\n")
        );
        assert_eq!(queue.lost(), 25);
    }

    #[test]
    fn a_line_that_cannot_be_written_is_lost_and_the_next_one_is_tried() {
        let (queue, tell, read) = begin(100);
        for line in ["a\n", "b\n", "c\n"] {
            queue.push(line.as_bytes());
        }
        for goes in [false, false] {
            tell.send(goes).unwrap();
        }
        drop(tell);
        queue.finish(LONG);
        assert_eq!(*read.lock().unwrap(), "c\nlost 2\n");
    }
}
