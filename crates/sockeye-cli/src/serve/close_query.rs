//! `?close=CODE&reason=TEXT`: a client asks to be closed that way, to see what it makes of it.

use sockeye::{
    CloseCode, CloseFrame,
    server::{Answer, Refusal, Request},
};

/// Refuses what cannot be done, before the connection opens.
pub(super) fn check(request: &Request) -> Result<Answer, Refusal> {
    match parse(request.query()) {
        Ok(_) => Ok(Answer::new()),
        Err(why) => Err(Refusal::new(400, format!("{why}\n"))),
    }
}

/// How the client wants to be closed, where it says so.
pub(super) fn wanted(request: &Request) -> Option<CloseFrame> {
    parse(request.query()).ok().flatten()
}

fn parse(query: Option<&str>) -> Result<Option<CloseFrame>, String> {
    let (mut code, mut reason) = (None, None);
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        match &*name {
            "close" => code = Some(value),
            "reason" => reason = Some(value),
            _ => {}
        }
    }
    let Some(code) = code else {
        return Ok(None);
    };
    let number = code
        .parse::<u16>()
        .map_err(|_| format!("close={code}: a close code is a number, such as 1000"))?;
    let code = CloseCode::new(number).map_err(|error| error.to_string())?;
    let frame = CloseFrame::new(code, reason.unwrap_or_default());
    frame.check(false).map_err(|error| error.to_string())?;
    Ok(Some(frame))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_asked_for() {
        assert_eq!(parse(None), Ok(None));
        assert_eq!(parse(Some("room=1&reason=none")), Ok(None));
    }

    #[test]
    fn code_and_reason_are_decoded() {
        let frame = parse(Some("close=3000&reason=%D0%BF%D0%BE%D0%BA%D0%B0+%26+bye"));
        let frame = frame.unwrap().unwrap();
        assert_eq!(frame.code.as_u16(), 3000);
        assert_eq!(frame.reason, "пока & bye");
    }

    #[test]
    fn what_cannot_be_sent_is_refused_with_the_reason() {
        let why = |query: &str| parse(Some(query)).unwrap_err();
        assert!(why("close=").contains("number"));
        assert!(why("close=1006").contains("local use"));
        assert!(why("close=1010").contains("server"));
        assert!(why("close=70000").contains("number"));
        let long = format!("close=1000&reason={}", "r".repeat(124));
        assert!(why(&long).contains("123"));
    }
}
