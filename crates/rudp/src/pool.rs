//! The buffers of one connection, used again and again, so that a steady flow allocates nothing and an idle connection keeps little.

/// After this many returns, what the last twice as many did not need is freed.
const EPOCH: u16 = 1_024;
/// What an idle connection may keep: one short buffer.
const IDLE_CAPACITY: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Pool {
    free: Vec<Vec<u8>>,
    in_use: u16,
    /// Most buffers in use at once, and longest content, since the epoch began.
    peak: u16,
    longest: u16,
    /// The same of the epoch before.
    peak_before: u16,
    longest_before: u16,
    returns: u16,
}

impl Pool {
    /// A buffer with this content.
    pub(crate) fn copy(&mut self, content: &[u8]) -> Vec<u8> {
        let mut buffer = self.free.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(content);
        self.in_use = self.in_use.saturating_add(1);
        self.peak = self.peak.max(self.in_use);
        self.longest = self.longest.max(u16::try_from(content.len()).unwrap_or(u16::MAX));
        buffer
    }

    /// Takes a buffer back that [`Self::copy`] gave.
    pub(crate) fn give(&mut self, buffer: Vec<u8>) {
        self.in_use = self.in_use.saturating_sub(1);
        if self.free.capacity() == 0 {
            self.free.reserve_exact(1);
        }
        self.free.push(buffer);
        self.returns += 1;
        if self.returns == EPOCH {
            self.free.truncate(usize::from(self.peak.max(self.peak_before)));
            let longest = usize::from(self.longest.max(self.longest_before)).max(IDLE_CAPACITY);
            self.free.retain(|buffer| buffer.capacity() <= 2 * longest);
            self.begin_epoch();
        }
    }

    /// The connection is idle: keeps one short buffer.
    pub(crate) fn trim(&mut self) {
        if self.free.len() > 1 || self.free.iter().any(|free| free.capacity() > IDLE_CAPACITY) {
            self.free.retain(|buffer| buffer.capacity() <= IDLE_CAPACITY);
            self.free.truncate(1);
            self.free.shrink_to_fit();
        }
        self.begin_epoch();
    }

    fn begin_epoch(&mut self) {
        self.returns = 0;
        self.peak_before = self.peak;
        self.longest_before = self.longest;
        self.peak = self.in_use;
        self.longest = 0;
    }
}
