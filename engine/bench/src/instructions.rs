//! Functions measured by callgrind: each a pass over the whole input, prepared outside and run
//! inside one function.

use abi::field::Side;
use abi::itch::{
    AddOrder, Framed, Message, OrderCancel, OrderDelete, OrderExecuted, StockDirectory, Trade,
};
use anyhow::{Context, Result};
use engine_core::book::Quote;
use engine_core::market::Market;
use std::hint::black_box;

/// A file of messages that was read through once.
pub struct Input<'a> {
    file: &'a [u8],
    /// Messages in it.
    pub messages: u64,
    symbols: Vec<abi::field::Symbol>,
    adds: usize,
}

impl<'a> Input<'a> {
    /// Reads the file through, so that the loops need not expect errors.
    ///
    /// # Errors
    /// A frame or message that is not ITCH 5.0; the message names its number.
    pub fn check(file: &'a [u8]) -> Result<Self> {
        let mut input = Self { file, messages: 0, symbols: Vec::new(), adds: 0 };
        for frame in Framed::new(file) {
            let number = input.messages;
            let named = || format!("message {number}");
            match Message::decode(frame.with_context(named)?).with_context(named)? {
                Message::StockDirectory(StockDirectory { stock, .. }) => input.symbols.push(stock),
                Message::AddOrder(_) | Message::AddOrderMpid(_) => input.adds += 1,
                _ => {}
            }
            input.messages += 1;
        }
        Ok(input)
    }
}

/// Tells every message by type and length, and reads the order that it is about: the rest of a
/// message is read where it lies, when it is asked for.
pub fn parse(input: &Input<'_>) -> u64 {
    measured_parse(input.file)
}

#[inline(never)]
fn measured_parse(file: &[u8]) -> u64 {
    sum(file, |frame| match *frame.first()? {
        AddOrder::KIND => AddOrder::raw(frame)?.order_ref(),
        OrderDelete::KIND => OrderDelete::raw(frame)?.order_ref(),
        _ => other_fields(frame),
    })
}

/// As [`parse`], and reads all that a book needs: locate code, reference, side, shares, price.
pub fn decode(input: &Input<'_>) -> u64 {
    measured_decode(input.file)
}

#[inline(never)]
fn measured_decode(file: &[u8]) -> u64 {
    sum(file, |frame| match *frame.first()? {
        AddOrder::KIND => {
            let m = AddOrder::raw(frame)?;
            let sell = u64::from(m.side()? == Side::Sell);
            let numbers = u64::from(m.shares()?) ^ u64::from(m.price()?.0) ^ sell;
            Some(m.order_ref()? ^ numbers ^ u64::from(m.stock_locate()?))
        }
        OrderDelete::KIND => {
            let m = OrderDelete::raw(frame)?;
            Some(m.order_ref()? ^ u64::from(m.stock_locate()?))
        }
        _ => other_fields(frame),
    })
}

#[inline(always)]
fn sum(file: &[u8], read: impl Fn(&[u8]) -> Option<u64>) -> u64 {
    let mut sum = 0u64;
    for frame in Framed::new(file) {
        let Some(word) = frame.ok().and_then(&read) else { break };
        sum = sum.wrapping_add(word);
    }
    sum
}

#[inline(never)]
fn other_fields(frame: &[u8]) -> Option<u64> {
    match *frame.first()? {
        OrderExecuted::KIND => {
            let m = OrderExecuted::raw(frame)?;
            Some(m.order_ref()? ^ u64::from(m.executed_shares()?) ^ u64::from(m.stock_locate()?))
        }
        OrderCancel::KIND => {
            let m = OrderCancel::raw(frame)?;
            Some(m.order_ref()? ^ u64::from(m.cancelled_shares()?) ^ u64::from(m.stock_locate()?))
        }
        Trade::KIND => Trade::raw(frame)?.order_ref(),
        _ => {
            let message = Message::decode(frame).ok()?;
            black_box(&message);
            Some(1)
        }
    }
}

/// Builds the books of all instruments that the file's directory names.
///
/// # Errors
/// The file names no instrument.
pub fn book(input: &Input<'_>) -> Result<u64> {
    let mut symbols = input.symbols.clone();
    symbols.sort();
    symbols.dedup();
    let orders_max = input.adds.max(1024);
    let levels_max = if symbols.len() < 64 { 4096 } else { 512 };
    let market = Market::new(&symbols, orders_max, levels_max);
    symbols.first().context("no Stock Directory message: no instrument has a locate code")?;
    Ok(measured_book(market, input.file))
}

#[inline(never)]
fn measured_book(mut market: Market, file: &[u8]) -> u64 {
    let mut hash = 0u64;
    for frame in Framed::new(file) {
        let Ok(frame) = frame else { break };
        let _ = market.apply(frame, |market, id| {
            let bbo = market.bbo(id);
            let word = |quote: Option<Quote>| {
                quote.map_or(0, |quote| u64::from(quote.price.0) << 32 | u64::from(quote.shares))
            };
            hash = hash.rotate_left(7) ^ word(bbo.bid) ^ word(bbo.ask).rotate_left(13);
        });
    }
    hash
}
