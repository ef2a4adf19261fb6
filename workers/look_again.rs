//! When a job that waits for something at an upstream looks again.

use chrono::{DateTime, TimeDelta, Utc};

/// Shortest pause between two looks.
const PAUSE_MIN: TimeDelta = TimeDelta::seconds(1);

/// The next look at `now` at what has been waited for since `since`: half of the wait so far, so that what takes
/// seconds is seen within seconds, and what takes hours does not cost a call every few seconds.
pub(crate) fn look_again(since: DateTime<Utc>, now: DateTime<Utc>, pause_max: TimeDelta) -> DateTime<Utc> {
    now + ((now - since) / 2).clamp(PAUSE_MIN, pause_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A day of looking costs some hundred calls, not thousands; the first looks are seconds apart.
    #[test]
    fn pauses_grow_with_the_wait() {
        let pause_max = TimeDelta::minutes(15);
        let since = DateTime::UNIX_EPOCH;
        let mut looks = vec![since];
        while let Some(&last) = looks.last()
            && last < since + TimeDelta::days(1)
        {
            looks.push(look_again(since, last, pause_max));
        }
        assert!((100..150).contains(&looks.len()), "{}", looks.len());
        assert!(looks[5] < since + TimeDelta::seconds(10));
        assert!(looks.windows(2).all(|pair| (PAUSE_MIN..=pause_max).contains(&(pair[1] - pair[0]))));
        assert_eq!(look_again(since + PAUSE_MIN, since, pause_max), since + PAUSE_MIN, "a clock that was set back");
    }
}
